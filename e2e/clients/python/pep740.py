"""PEP 740 attestations with pypi-attestations, in an instance of Sigstore that a file describes.

pep740.py sign TRUST_CONFIG TOKEN DISTRIBUTION                    writes DISTRIBUTION.publish.attestation.
pep740.py verify TRUST_CONFIG DISTRIBUTION IDENTITY ISSUER        verifies it, and that it names the distribution.
"""

import json
import sys
from pathlib import Path

from pypi_attestations import Attestation, Distribution
from sigstore.models import ClientTrustConfig
from sigstore.oidc import IdentityToken
from sigstore.sign import SigningContext
from sigstore.verify import Verifier, policy

command, config, *rest = sys.argv[1:]
trust = ClientTrustConfig.from_json(Path(config).read_text())
trust.force_tlog_version = 1  # an attestation has no place for a timestamp, so that the time is that of the log entry
if command == "sign":
    token, file = rest
    with SigningContext.from_trust_config(trust).signer(IdentityToken(Path(token).read_text().strip())) as signer:
        attestation = Attestation.sign(signer, Distribution.from_file(Path(file)))
    Path(file + ".publish.attestation").write_text(attestation.model_dump_json())
else:
    file, identity, issuer = rest
    attestation = Attestation.model_validate_json(Path(file + ".publish.attestation").read_text())
    verifier = Verifier(trusted_root=trust.trusted_root)
    _, payload = verifier.verify_dsse(attestation.to_bundle(), policy.Identity(identity=identity, issuer=issuer))
    statement, distribution = json.loads(payload), Distribution.from_file(Path(file))
    subject = statement["subject"][0]
    if subject["name"] != distribution.name or subject["digest"]["sha256"] != distribution.digest:
        sys.exit(f"the attestation is for {subject}")
    print("verified", subject["name"])
