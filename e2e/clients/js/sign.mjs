// node sign.mjs SIGNING_CONFIG TOKEN_FILE ARTIFACT BUNDLE [PAYLOAD_TYPE]: signs; with a payload type as an attestation (DSSE).
import { readFileSync, writeFileSync } from 'node:fs';
import { bundleToJSON } from '@sigstore/bundle';
import { SigningConfig } from '@sigstore/protobuf-specs';
import { bundleBuilderFromSigningConfig } from '@sigstore/sign';

const [config, token, artifact, out, type] = process.argv.slice(2);
const builder = bundleBuilderFromSigningConfig({
  signingConfig: SigningConfig.fromJSON(JSON.parse(readFileSync(config, 'utf8'))),
  identityProvider: { getToken: async () => readFileSync(token, 'utf8').trim() },
  bundleType: type ? 'dsseEnvelope' : 'messageSignature',
  fetchOptions: { timeout: 30000 },
});
const bundle = await builder.create({ data: readFileSync(artifact), type });
writeFileSync(out, JSON.stringify(bundleToJSON(bundle)));
