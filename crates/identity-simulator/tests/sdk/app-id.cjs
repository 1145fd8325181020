// IBM's Node SDK, unchanged, with what a Secret of the operator holds: clientId, secret, oauthServerUrl come from the environment, where the
// SDK itself looks for them. TokenManager fetches and checks a client-credentials token; where the environment holds one already (token,
// token_type), it is checked as TokenManager does: signature, issuer, audience. APIStrategy (passport) then lets it in where it is meant for,
// keeps it out elsewhere, and keeps out a token that was tampered with. NODE_EXTRA_CA_CERTS names the authority to trust. hack/sdk.sh installs
// the SDK beside a copy of this file.
"use strict";

const http = require("node:http");
const passport = require("passport");
const { APIStrategy, TokenManager } = require("ibmcloud-appid");
const TokenUtil = require("ibmcloud-appid/lib/utils/token-util");

function fail(message) {
  console.error(`app-id: ${message}`);
  process.exit(1);
}

function ask(port, token) {
  return new Promise((resolve, reject) => {
    const headers = { Authorization: `Bearer ${token}` };
    http.get({ host: "127.0.0.1", port, headers }, (response) => {
      response.resume();
      response.on("end", () => resolve({ status: response.statusCode, challenge: response.headers["www-authenticate"] }));
    }).on("error", reject);
  });
}

async function listening(audience) {
  const gate = new passport.Passport();
  gate.use(new APIStrategy({}));
  const authenticate = gate.authenticate(APIStrategy.STRATEGY_NAME, { session: false, audience });
  const server = http.createServer((request, response) => {
    // Express offers this function; the strategy needs nothing else of it.
    request.header = (name) => request.headers[name.toLowerCase()];
    authenticate(request, response, (error) => {
      response.statusCode = error ? 500 : 200;
      response.end();
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server.address().port;
}

async function published(token, tokenType) {
  const claims = await TokenUtil.decodeAndValidate(token, process.env.oauthServerUrl);
  await TokenUtil.validateIssAndAud(claims, new TokenManager({}).serviceConfig);
  return { accessToken: token, tokenType, subject: claims.sub };
}

async function main() {
  for (const name of ["clientId", "secret", "oauthServerUrl"]) {
    if (!process.env[name]) fail(`${name} is not set`);
  }
  const { clientId, token, token_type } = process.env;
  const got = token ? await published(token, token_type) : await new TokenManager({}).getApplicationIdentityToken();
  const { accessToken, tokenType, expiresIn, subject } = got;
  if (tokenType !== "Bearer") fail(`token_type is ${tokenType}`);
  const port = await listening(clientId);
  const admitted = await ask(port, accessToken);
  if (admitted.status !== 200) fail(`APIStrategy answered ${admitted.status}: ${admitted.challenge}`);
  const elsewhere = await ask(await listening("somebody-else"), accessToken);
  if (elsewhere.status !== 401) fail(`APIStrategy answered ${elsewhere.status} to a token for another audience`);
  const [header, payload, signature] = accessToken.split(".");
  const forged = `${header}.${payload}.${signature.startsWith("A") ? "B" : "A"}${signature.slice(1)}`;
  const refused = await ask(port, forged);
  if (refused.status !== 401) fail(`APIStrategy answered ${refused.status} to a forged token`);
  console.log(JSON.stringify({ tokenType, expiresIn, subject }));
}

main().then(() => process.exit(0), (error) => fail(error && error.message ? error.message : error));
