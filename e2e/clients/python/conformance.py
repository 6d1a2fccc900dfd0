"""The command-line protocol of sigstore-conformance for sigstore-python.

conformance.py sign-bundle [--in-toto] --identity-token TOKEN --bundle FILE --trusted-root FILE --signing-config FILE FILE
conformance.py verify-bundle --bundle FILE --certificate-identity ID --certificate-oidc-issuer URL --trusted-root FILE FILE
"""

import argparse
import json
from pathlib import Path

from sigstore.dsse import Statement
from sigstore.hashes import Hashed
from sigstore.models import Bundle, ClientTrustConfig, TrustedRoot
from sigstore.oidc import IdentityToken
from sigstore.sign import SigningContext
from sigstore.verify import Verifier, policy
from sigstore_models.common.v1 import HashAlgorithm

parser = argparse.ArgumentParser()
parser.add_argument("command", choices=["sign-bundle", "verify-bundle"])
for name in "identity-token", "bundle", "trusted-root", "signing-config", "certificate-identity":
    parser.add_argument("--" + name)
parser.add_argument("--certificate-oidc-issuer")
parser.add_argument("--in-toto", action="store_true")
parser.add_argument("file")
o = parser.parse_args()

if o.command == "sign-bundle":
    trust = ClientTrustConfig.from_json(
        json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
                "trustedRoot": json.loads(Path(o.trusted_root).read_text()),
                "signingConfig": json.loads(Path(o.signing_config).read_text()),
            }
        )
    )
    content = Path(o.file).read_bytes()
    with SigningContext.from_trust_config(trust).signer(IdentityToken(o.identity_token)) as signer:
        signed = signer.sign_dsse(Statement(content)) if o.in_toto else signer.sign_artifact(content)
    Path(o.bundle).write_text(signed.to_json())
else:
    verifier = Verifier(trusted_root=TrustedRoot.from_file(o.trusted_root))
    text = Path(o.bundle).read_text()
    bundle = Bundle.from_json(text)
    who = policy.Identity(identity=o.certificate_identity, issuer=o.certificate_oidc_issuer)
    if o.file.startswith("sha256:"):
        digest = bytes.fromhex(o.file.removeprefix("sha256:"))
        artifact = Hashed(algorithm=HashAlgorithm.SHA2_256, digest=digest)
    else:
        artifact = Path(o.file).read_bytes()
    if "dsseEnvelope" in json.loads(text):
        verifier.verify_dsse(bundle, who)
    else:
        verifier.verify_artifact(artifact, bundle, who)
    print("verified")
