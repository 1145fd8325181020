// An OpenID provider that nobody here wrote (oidc-provider, certified by the OpenID Foundation), on HTTPS at a free port of 127.0.0.1.
//
// The first line of its input says everything:
//   certificate, key   PEM, for 127.0.0.1
//   clients            as dynamic registration names their fields; public_key (PEM) and key_id become a client's jwks
//   resources          by identifier: format (jwt or opaque), seconds (lifetime), scope; or refusal, an error of the provider's
// It prints one line when it listens, {"issuer": …}, and ends with its input, or by SIGTERM. hack/sdk.sh installs the provider beside a copy
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

process.on("SIGTERM", () => process.exit(0));
const input = createInterface({ input: process.stdin });
input.on("close", () => process.exit(0));
input.once("line", (line) => {
  const { certificate, key, ...settings } = JSON.parse(line);
  const server = https.createServer({ cert: certificate, key });
  server.listen(0, "127.0.0.1", () => {
    const issuer = `https://127.0.0.1:${server.address().port}`;
    server.on("request", new Provider(issuer, configuration(settings)).callback());
    process.stdout.write(`${JSON.stringify({ issuer })}\n`);
  });
});
