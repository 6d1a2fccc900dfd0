"""Signs once a second, or verifies many bundles, in one process with sigstore-python.

batch.py sign TRUST_CONFIG TOKEN DIR   signs until the file DIR/stop exists, each time with the files as they are then.
                                       Prints for each signature: number, start in Unix milliseconds, ok or the error.
batch.py verify LIST                   LIST is a JSON array of objects with root, bundle, artifact, identity, issuer.
                                       Prints for each object: ok or the error.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sigstore.models import Bundle, ClientTrustConfig, TrustedRoot
from sigstore.oidc import IdentityToken
from sigstore.sign import SigningContext
from sigstore.verify import Verifier, policy

WORKERS = 4  # a signature waits up to a second for its log entry


def one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()) or "error"


def sign(trust: Path, token: Path, out: Path) -> None:
    def once(n: int) -> None:
        began, result = time.time_ns() // 1_000_000, "ok"
        try:
            artifact = f"{out.name} {n}\n".encode()
            (out / f"{n}.txt").write_bytes(artifact)
            config = ClientTrustConfig.from_json(trust.read_text())
            context = SigningContext.from_trust_config(config)
            with context.signer(IdentityToken(token.read_text().strip())) as signer:
                (out / f"{n}.json").write_text(signer.sign_artifact(artifact).to_json())
        except Exception as error:  # every failure is a result
            result = one_line(error)
        print(n, began, result, flush=True)

    with ThreadPoolExecutor(WORKERS) as pool:
        n, due = 0, time.monotonic()
        while not (out / "stop").exists():
            n += 1
            pool.submit(once, n)
            due += 1
            time.sleep(max(0, due - time.monotonic()))


def verify(entries: list) -> None:
    verifiers = {}
    for e in entries:
        try:
            if e["root"] not in verifiers:
                verifiers[e["root"]] = Verifier(trusted_root=TrustedRoot.from_file(e["root"]))
            verifiers[e["root"]].verify_artifact(
                Path(e["artifact"]).read_bytes(),
                Bundle.from_json(Path(e["bundle"]).read_text()),
                policy.Identity(identity=e["identity"], issuer=e["issuer"]),
            )
            print("ok", flush=True)
        except Exception as error:
            print(one_line(error), flush=True)


if sys.argv[1] == "sign":
    sign(*map(Path, sys.argv[2:5]))
else:
    verify(json.loads(Path(sys.argv[2]).read_text()))
