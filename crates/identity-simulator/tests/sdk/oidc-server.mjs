// An OpenID provider that nobody here wrote (oidc-provider, certified by the OpenID Foundation), on HTTPS at a free port of 127.0.0.1.
//
// The first line of its input says everything:
//   certificate, key   PEM, for 127.0.0.1
//   clients            as dynamic registration names their fields; public_key (PEM) and key_id become a client's jwks
//   resources          by identifier: format (jwt or opaque), seconds (lifetime), scope; or refusal, an error of the provider's
//   signed_in          optional: a client_id for which somebody has signed in
// It prints one line when it listens, {"issuer": …, "refresh_token": …}, and ends with its input, or by SIGTERM. hack/sdk.sh installs the provider beside a copy
// of this file.
import { createPublicKey, generateKeyPairSync } from "node:crypto";
import https from "node:https";
import { createInterface } from "node:readline";

// Its output is one line: what the provider tells while it is set up (the version of Node, defaults for production) goes elsewhere.
console.info = console.warn = console.error;
const { Provider, errors } = await import("oidc-provider");

function registered({ public_key: pem, key_id: kid, ...client }) {
  const keys = pem ? { jwks: { keys: [{ ...createPublicKey(pem).export({ format: "jwk" }), kid: kid ?? undefined, use: "sig" }] } } : {};
  return { grant_types: ["client_credentials"], response_types: [], redirect_uris: [], ...keys, ...client };
}

function configuration({ clients, resources }) {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  return {
    clients: clients.map(registered),
    findAccount: (context, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    rotateRefreshToken: true,
    clientDefaults: { id_token_signed_response_alg: "ES256" },
    jwks: { keys: [{ ...privateKey.export({ format: "jwk" }), kid: "of-the-server", alg: "ES256", use: "sig" }] },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      introspection: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo(context, identifier) {
          const resource = resources[identifier];
          if (!resource || resource.refusal) throw new errors[resource?.refusal ?? "InvalidTarget"]();
          return { scope: resource.scope ?? "", audience: identifier, accessTokenFormat: resource.format, accessTokenTTL: resource.seconds };
        },
      },
    },
    ttl: { ClientCredentials: (context, token) => token.resourceServer?.accessTokenTTL ?? 3600 },
  };
}

// What the sign-in of a person would end in.
async function signIn(provider, clientId) {
  if (!clientId) return undefined;
  const [accountId, scope] = ["ann", "openid offline_access"];
  const grant = new provider.Grant({ accountId, clientId });
  grant.addOIDCScope(scope);
  const grantId = await grant.save();
  const client = await provider.Client.find(clientId);
  return new provider.RefreshToken({ accountId, client, grantId, scope, gty: "authorization_code" }).save();
}

process.on("SIGTERM", () => process.exit(0));
const input = createInterface({ input: process.stdin });
input.on("close", () => process.exit(0));
input.once("line", (line) => {
  const { certificate, key, signed_in: signedIn, ...settings } = JSON.parse(line);
  const server = https.createServer({ cert: certificate, key });
  server.listen(0, "127.0.0.1", async () => {
    const issuer = `https://127.0.0.1:${server.address().port}`;
    const provider = new Provider(issuer, configuration(settings));
    server.on("request", provider.callback());
    process.stdout.write(`${JSON.stringify({ issuer, refresh_token: await signIn(provider, signedIn) })}\n`);
  });
});
