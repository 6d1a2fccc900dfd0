// node publish.mjs REGISTRY CA REKOR TSA NAME: publishes a small package as "npm publish --provenance" does, with the
// library of the npm CLI. A GitLab job's variables are in the environment. Prints the URL in the notice of npm.
import publish from 'libnpmpublish';

const [registry, fulcioURL, rekorURL, tsaServerURL, name] = process.argv.slice(2);
const result = await publish.publish({ name, version: '1.0.0' }, Buffer.from(`the tarball of ${name}\n`), {
  registry, access: 'public', defaultTag: 'latest', provenance: true, algorithms: ['sha512'],
  fulcioURL, rekorURL, tsaServerURL, timeout: 30000, forceAuth: { token: 'not-checked' },
});
console.log(result.transparencyLogUrl);
