// node verify.mjs TRUSTED_ROOT BUNDLE ARTIFACT|- IDENTITY ISSUER [TLOG_THRESHOLD]: verifies; SCT and timestamp are always demanded.
import { readFileSync } from 'node:fs';
import { bundleFromJSON } from '@sigstore/bundle';
import { TrustedRoot } from '@sigstore/protobuf-specs';
import { toSignedEntity, toTrustMaterial, Verifier } from '@sigstore/verify';

const [root, file, artifact, identity, issuer, tlog] = process.argv.slice(2);
const verifier = new Verifier(toTrustMaterial(TrustedRoot.fromJSON(JSON.parse(readFileSync(root, 'utf8')))), {
  ctlogThreshold: 1, tlogThreshold: Number(tlog ?? 1), timestampThreshold: 1,
});
const bundle = bundleFromJSON(JSON.parse(readFileSync(file, 'utf8')));
const signer = verifier.verify(toSignedEntity(bundle, artifact === '-' ? undefined : readFileSync(artifact)), {
  subjectAlternativeName: identity, extensions: { issuer },
});
console.log('verified', signer.identity.subjectAlternativeName);
