// Protobuf messages as bytes and back, by the schema that the service tells (see web/schema.py). A message is a plain object
// with the proto's field names; 64-bit numbers are Numbers, exact to 2^53, which media times and counts never reach.

const VARINT = 0;
const FIXED64 = 1;
const BYTES = 2;
const FIXED32 = 5;

const utf8 = new TextEncoder();
const text = new TextDecoder();

export class Wire {
  /** @param {{messages: Object, enums: Object}} schema */
  constructor(schema) {
    this.enums = schema.enums;
    this.byName = schema.messages;
    this.byNumber = Object.fromEntries(
      Object.entries(schema.messages).map(([name, fields]) => [name, new Map(fields.map((field) => [field.number, field]))]),
    );
    this.names = Object.fromEntries(
      Object.entries(schema.enums).map(([name, values]) => [name, new Map(Object.entries(values).map(([k, v]) => [v, k]))]),
    );
  }

  /** Bytes of a message. Unknown names are mistakes of the caller and throw. */
  encode(name, message) {
    const out = [];
    const known = new Set();
    for (const field of this.byName[name]) {
      known.add(field.name);
      const value = message[field.name];
      if (value === undefined || value === null) continue;
      for (const one of field.repeated ? value : [value]) this.#write(out, field, one);
    }
    for (const key of Object.keys(message)) if (!known.has(key)) throw new TypeError(`${name} has no field ${key}`);
    return joined(out);
  }

  /** A message of bytes. Fields that are not there have their defaults; message fields stay undefined. */
  decode(name, bytes) {
    const message = {};
    for (const field of this.byName[name]) {
      if (field.repeated) message[field.name] = [];
      else if (field.kind !== "message") message[field.name] = this.#blank(field);
    }
    const reader = new Reader(bytes);
    while (!reader.done) {
      const tag = reader.varint();
      const field = this.byNumber[name].get(Math.floor(tag / 8));
      if (!field) reader.skip(tag % 8);
      else if (field.repeated && tag % 8 === BYTES && !["string", "bytes", "message"].includes(field.kind)) {
        const packed = new Reader(reader.bytes());
        while (!packed.done) message[field.name].push(this.#scalar(field, packed));
      } else {
        const value = this.#read(field, reader);
        if (field.repeated) message[field.name].push(value);
        else message[field.name] = value;
      }
    }
    return message;
  }

  #blank(field) {
    if (field.kind === "string") return "";
    if (field.kind === "bytes") return new Uint8Array(0);
    if (field.kind === "bool") return false;
    return field.kind === "enum" ? (this.names[field.of].get(0) ?? "") : 0;
  }

  #read(field, reader) {
    if (field.kind === "string") return text.decode(reader.bytes());
    if (field.kind === "bytes") return reader.bytes();
    if (field.kind === "message") return this.decode(field.of, reader.bytes());
    return this.#scalar(field, reader);
  }

  #scalar(field, reader) {
    const value = reader.varint();
    if (field.kind === "bool") return value !== 0;
    return field.kind === "enum" ? (this.names[field.of].get(value) ?? String(value)) : value;
  }

  #write(out, field, value) {
    let data;
    if (field.kind === "message") data = this.encode(field.of, value);
    else if (field.kind === "string") data = utf8.encode(value);
    else if (field.kind === "bytes") data = value;
    if (data) return void out.push(varint(field.number * 8 + BYTES), varint(data.length), data);
    const number = field.kind === "enum" ? this.enums[field.of][value] : Number(value);
    if (!Number.isSafeInteger(number) || number < 0) throw new TypeError(`${field.name}: ${value} cannot be written`);
    out.push(varint(field.number * 8 + VARINT), varint(number));
  }
}

class Reader {
  constructor(bytes) {
    this.data = bytes;
    this.at = 0;
  }

  get done() {
    return this.at >= this.data.length;
  }

  varint() {
    let value = 0;
    let scale = 1;
    let byte;
    do {
      if (this.done) throw new RangeError("the message ends early");
      byte = this.data[this.at++];
      value += (byte & 127) * scale;
      scale *= 128;
    } while (byte & 128);
    // Negative numbers come as ten bytes of two's complement.
    return value > 2 ** 63 ? value - 2 ** 64 : value;
  }

  bytes() {
    const length = this.varint();
    if (this.at + length > this.data.length) throw new RangeError("the message ends early");
    this.at += length;
    return this.data.subarray(this.at - length, this.at);
  }

  skip(type) {
    if (type === VARINT) this.varint();
    else if (type === BYTES) this.bytes();
    else if (type === FIXED64) this.at += 8;
    else if (type === FIXED32) this.at += 4;
    else throw new RangeError(`wire type ${type}`);
  }
}

function varint(value) {
  const bytes = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  return Uint8Array.from([...bytes, value]);
}

function joined(parts) {
  const all = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
