// A second OpenID Connect issuer, npm oidc-provider: `node oidc_provider.mjs PORT`, with NODE_PATH-like imports from the
// folder that OIDC_PROVIDER names. Accounts are those of `users`, with NAME-pass as password.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
const port = Number(process.argv[2]);
const require = createRequire(`${process.env.OIDC_PROVIDER}/package.json`);
const { default: Provider } = await import(pathToFileURL(require.resolve('oidc-provider')).href);
const issuer = `http://127.0.0.1:${port}`;
const users = { rita: ['reader'], anna: ['reader', 'pacs-admins'] };
const resource = 'urn:dicomweb';
const provider = new Provider(issuer, {
  clients: [{
    client_id: 'dicomweb-server', client_secret: 'dicomweb-server-secret',
    redirect_uris: [process.env.REDIRECT_URI], post_logout_redirect_uris: [process.env.LOGOUT_URI],
    grant_types: ['authorization_code', 'client_credentials'], response_types: ['code'],
    token_endpoint_auth_method: 'client_secret_post',
  }],
  cookies: { keys: ['only for tests'] },
  jwks: { keys: [JSON.parse(process.env.SIGNING_KEY)] },
  pkce: { required: () => true },
  features: {
    devInteractions: { enabled: true }, clientCredentials: { enabled: true },
    rpInitiatedLogout: { enabled: true },
    resourceIndicators: {
      enabled: true, defaultResource: () => resource, useGrantedResource: () => true,
      getResourceServerInfo: () => ({ scope: 'openid', audience: resource, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } } }),
    },
  },
  extraTokenClaims: (ctx, token) => (token.accountId ? { groups: users[token.accountId] ?? [] } : { groups: ['reader'] }),
  findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
});
provider.listen(port, '127.0.0.1', () => console.log('ready'));
