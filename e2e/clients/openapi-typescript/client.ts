// client.ts URL TOKEN EMAIL: asks a CA for certificates with the types that openapi-typescript has generated (file api.ts).
import assert from 'node:assert/strict';
import { createSign, generateKeyPairSync, X509Certificate } from 'node:crypto';
import createClient from 'openapi-fetch';
import type { components, paths } from './api.js';

const [url, token, email] = process.argv.slice(2) as [string, string, string];
const client = createClient<paths>({ baseUrl: url });
const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const content = publicKey.export({ type: 'spki', format: 'pem' }).toString();
const proofOfPossession = createSign('SHA256').update(email).sign(privateKey, 'base64');

const configuration = await client.GET('/api/v2/configuration');
assert.deepEqual(configuration.data?.issuers.map((i) => [i.audience, i.challengeClaim, i.skipEmailVerification]), [['sigstore', 'email', false]]);
const bundle = await client.GET('/api/v2/trustBundle');

const body: components['schemas']['CreateSigningCertificateRequest'] = {
  credentials: { oidcIdentityToken: token }, publicKeyRequest: { publicKey: { content }, proofOfPossession },
};
const signed = await client.POST('/api/v2/signingCert', { body });
const chain = signed.data?.signedCertificateEmbeddedSct?.chain.certificates;
assert.ok(chain, JSON.stringify(signed.error));
const stripped = (certificates?: string[]) => certificates?.map((c) => c.trim());
assert.deepEqual(stripped(chain.slice(1)), stripped(bundle.data?.chains[0]?.certificates));
const leaf = new X509Certificate(chain[0]!);
assert.equal(leaf.subjectAltName, `email:${email}`);
assert.ok(leaf.publicKey.equals(publicKey));

const headers = { Authorization: `Bearer ${token}` };
const older = await client.POST('/api/v1/signingCert', {
  body: { publicKey: { content: Buffer.from(content).toString('base64') }, signedEmailAddress: proofOfPossession }, headers, parseAs: 'text',
});
assert.equal(older.response.status, 201);
assert.equal(new X509Certificate(older.data!).subjectAltName, `email:${email}`);

const refused = await client.POST('/api/v2/signingCert', { body: { ...body, credentials: { oidcIdentityToken: 'x' } } });
const detail = refused.error?.details[0];
assert.ok(detail && detail['@type'] === 'type.googleapis.com/google.rpc.ErrorInfo'); // the type tells the details apart
const reason: components['schemas']['Reason'] = detail.reason;
assert.equal(reason, 'TOKEN_MALFORMED');
assert.equal(detail.metadata['request_id'], refused.response.headers.get('X-Request-Id'));
console.log('all requests were answered as the document says');
