// The service's unary calls, and what a failed one says.

export const SERVICE = "liveact.v1.AvatarService";

/** A failure as the service tells it: a stable reason, a message for people, and perhaps when to try again. */
export class ServiceFailure extends Error {
  constructor({ code = "unknown", message = "", details = [] } = {}) {
    super(message || code);
    this.code = code;
    const detail = (name) => details.find((one) => one.type === `google.rpc.${name}`)?.debug;
    this.reason = detail("ErrorInfo")?.reason ?? "";
    const retry = detail("RetryInfo")?.retryDelay;
    this.retryAfter = retry === undefined ? null : Number.parseFloat(retry);
  }

  get isAboutCredentials() {
    return this.code === "unauthenticated";
  }
}

/** What the network or the browser did instead of the service. */
export const unreachable = (why) => new ServiceFailure({ code: "unavailable", message: why });

export class Calls {
  /** @param {() => string} key gives the API key or token, or "". */
  constructor(key) {
    this.key = key;
  }

  async about() {
    return (await this.#fetch("console.json")).json();
  }

  async serverInfo() {
    return this.#unary("GetServerInfo");
  }

  async sessions() {
    return (await this.#unary("ListSessions")).sessions ?? [];
  }

  async endSession(name) {
    await this.#unary("DeleteSession", { name });
  }

  /** Text spoken by the service's voice: {pcm: Int16Array, rate}. */
  async speech(words) {
    const answer = await this.#fetch("speech", this.#post({ text: words }));
    return { pcm: new Int16Array(await answer.arrayBuffer()), rate: Number(answer.headers.get("x-sample-rate")) };
  }

  async #unary(method, request = {}) {
    return (await this.#fetch(`${SERVICE}/${method}`, this.#post(request))).json();
  }

  #post(body) {
    const headers = { "content-type": "application/json" };
    if (this.key()) headers.authorization = `Bearer ${this.key()}`;
    return { method: "POST", headers, body: JSON.stringify(body), keepalive: true };
  }

  async #fetch(path, options) {
    let answer;
    try {
      answer = await fetch(path, options);
    } catch {
      throw unreachable("The service cannot be reached.");
    }
    if (answer.ok) return answer;
    const told = await answer.json().catch(() => null);
    throw new ServiceFailure(told ?? { code: "unavailable", message: `The service answered ${answer.status}.` });
  }
}
