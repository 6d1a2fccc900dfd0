"""client.py URL TOKEN EMAIL: asks a CA for certificates with the client that openapi-python-client has generated (package generated)."""
import base64
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from generated import AuthenticatedClient, Client
from generated.api.certificates import create_signing_certificate, get_configuration
from generated.api.older_api import create_signing_certificate_v1, get_root_certificate_v1
from generated.api.verification import get_trust_bundle
from generated import models

url, token, email = sys.argv[1:]
anonymous = Client(base_url=url)
authenticated = AuthenticatedClient(base_url=url, token=token)

key = ec.generate_private_key(ec.SECP256R1())
pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
proof = base64.b64encode(key.sign(email.encode(), ec.ECDSA(hashes.SHA256()))).decode()


def certified(chain):
    """The e-mail address in the first certificate of a chain, which must be of the key."""
    leaf = x509.load_pem_x509_certificate(chain[0].encode())
    assert leaf.public_key() == key.public_key()
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.RFC822Name)


def stripped(chain):
    """A chain without the line feeds that end its certificates in some answers."""
    return [c.strip() for c in chain]


def request(credentials):
    return models.CreateSigningCertificateRequest(
        credentials=credentials,
        public_key_request=models.PublicKeyRequest(public_key=models.PublicKey(content=pem.decode()), proof_of_possession=proof),
    )


configuration = get_configuration.sync(client=anonymous)
assert [(i.audience, i.challenge_claim, i.issuer_type) for i in configuration.issuers] == [("sigstore", "email", "email")], configuration
bundle = get_trust_bundle.sync(client=anonymous)
roots = get_root_certificate_v1.sync(client=anonymous)
assert all(c in roots for c in stripped(bundle.chains[0].certificates)), roots

# The token in the body, then in the header alone.
for client, credentials in [(anonymous, models.Credentials(oidc_identity_token=token)), (authenticated, models.Credentials())]:
    answer = create_signing_certificate.sync(client=client, body=request(credentials))
    assert isinstance(answer, models.SigningCertificate), answer
    chain = answer.signed_certificate_embedded_sct.chain.certificates
    assert certified(chain) == [email] and stripped(chain[1:]) == stripped(bundle.chains[0].certificates), answer

older = create_signing_certificate_v1.sync(client=authenticated, body=models.LegacyCreateSigningCertificateRequest(
    public_key=models.LegacyPublicKey(content=base64.b64encode(pem).decode()), signed_email_address=proof,
))
assert certified([older]) == [email], older

refused = create_signing_certificate.sync_detailed(client=anonymous, body=request(models.Credentials(oidc_identity_token="x")))
assert refused.status_code == 400 and isinstance(refused.parsed, models.Error), refused
info = refused.parsed.details[0]
assert info.reason == models.Reason.TOKEN_MALFORMED and info.metadata["request_id"] == refused.headers["X-Request-Id"], refused
print("all requests were answered as the document says")
