// Gives one captured request to a package that others publish. Arguments: which, and a file with
// {"headers":[[name,value]…],"body":[bytes],"secret":text}.

import { readFileSync } from "node:fs";
import { verify as octokit } from "@octokit/webhooks-methods";
import { HTTP } from "cloudevents";
import { Webhook } from "standardwebhooks";
import Stripe from "stripe";

const [by, file] = process.argv.slice(2);
const request = JSON.parse(readFileSync(file, "utf8"));
const headers = Object.fromEntries(request.headers);
const body = Buffer.from(request.body).toString("utf8");
const { secret } = request;

/** Resolves to whether the body is accepted. */
const verifiers = {
  standardwebhooks: async (text) => {
    new Webhook(secret).verify(text, headers);
    return true;
  },
  octokit: (text) => octokit(secret, text, headers["x-hub-signature-256"]),
  stripe: async (text) => {
    Stripe.webhooks.constructEvent(text, headers["stripe-signature"], secret);
    return true;
  },
};

if (by === "cloudevents") {
  const event = HTTP.toEvent({ headers, body });
  event.validate();
  console.log(JSON.stringify(event));
} else {
  const accepts = (text) => verifiers[by](text).catch(() => false);
  if (!(await accepts(body))) {
    // Again, so that the package says why.
    await verifiers[by](body);
    throw new Error("refused");
  }
  if (await accepts(body.replace("match", "mutch"))) throw new Error("a changed body was accepted");
  console.log("accepted, and refused when changed");
}
