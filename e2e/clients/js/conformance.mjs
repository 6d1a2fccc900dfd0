// The command-line protocol of sigstore-conformance for sigstore-js.
import { readFileSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { bundleFromJSON, bundleToJSON } from '@sigstore/bundle';
import { SigningConfig, TrustedRoot } from '@sigstore/protobuf-specs';
import { bundleBuilderFromSigningConfig } from '@sigstore/sign';
import { toSignedEntity, toTrustMaterial, Verifier } from '@sigstore/verify';

const text = { type: 'string' };
const { values: o, positionals: [command, file] } = parseArgs({
  allowPositionals: true,
  options: {
    'in-toto': { type: 'boolean' }, 'identity-token': text, bundle: text, 'trusted-root': text, 'signing-config': text,
    'certificate-identity': text, 'certificate-oidc-issuer': text,
  },
});
const json = (name) => JSON.parse(readFileSync(name, 'utf8'));
if (command === 'sign-bundle') {
  const builder = bundleBuilderFromSigningConfig({
    signingConfig: SigningConfig.fromJSON(json(o['signing-config'])),
    identityProvider: { getToken: async () => o['identity-token'] },
    bundleType: o['in-toto'] ? 'dsseEnvelope' : 'messageSignature',
    fetchOptions: { timeout: 30000 },
  });
  const type = o['in-toto'] ? 'application/vnd.in-toto+json' : undefined;
  writeFileSync(o.bundle, JSON.stringify(bundleToJSON(await builder.create({ data: readFileSync(file), type }))));
} else {
  const bundle = bundleFromJSON(json(o.bundle));
  const verifier = new Verifier(toTrustMaterial(TrustedRoot.fromJSON(json(o['trusted-root']))), {
    ctlogThreshold: 1, tlogThreshold: 1, timestampThreshold: 1,
  });
  const data = bundle.content.$case === 'dsseEnvelope' ? undefined : readFileSync(file);
  verifier.verify(toSignedEntity(bundle, data), {
    subjectAlternativeName: o['certificate-identity'], extensions: { issuer: o['certificate-oidc-issuer'] },
  });
  console.log('verified');
}
