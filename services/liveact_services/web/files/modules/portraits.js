// Whose face: one of the shipped portraits, or an uploaded picture.

import { at, make } from "./page.js";

const MAX_BYTES = 16 * 1024 * 1024 - 16 * 1024; // with all that goes with it, one message

export class Portraits {
  /** @param {string[]} names of the shipped ones. @param {(url: string, name: string) => void} chosen */
  constructor(names, chosen) {
    this.chosen = chosen;
    const grid = at("portraits");
    names.forEach((name, i) => grid.append(this.#tile(name, `portraits/${name}.jpg`, i === 0)));
    this.upload = make("label", { class: "upload" }, "Upload");
    this.input = make("input", { type: "file", accept: "image/png,image/jpeg,image/webp", "aria-label": "Upload a portrait" });
    this.input.onchange = () => this.input.files[0] && this.take(this.input.files[0]);
    this.upload.append(this.input);
    grid.append(this.upload);
    droppable(this.upload, (file) => this.take(file));
    droppable(at("stage").querySelector(".screen"), (file) => this.take(file));
    if (names.length > 0) this.#choose(`portraits/${names[0]}.jpg`, names[0]);
  }

  /** Use this picture file. */
  take(file) {
    const url = URL.createObjectURL(file);
    this.own?.remove();
    const name = file.name || "your portrait";
    this.own = this.#tile(name, url, true, file);
    this.upload.before(this.own);
    this.#choose(url, name, file);
  }

  /** The chosen file's bytes. Throws an Error for people. */
  async bytes() {
    // An uploaded file as it is: the page's policy lets nothing be fetched but from the service.
    const bytes = new Uint8Array(await (this.picture ?? (await fetch(this.url))).arrayBuffer());
    if (bytes.length > MAX_BYTES) {
      throw Object.assign(new Error(`That picture has ${(bytes.length / 2 ** 20).toFixed(1)} MiB: accepted are 16.`), { reason: "IMAGE_TOO_LARGE" });
    }
    return bytes;
  }

  #tile(name, url, checked, file = null) {
    const radio = make("input", { type: "radio", name: "portrait", "aria-label": name });
    radio.checked = checked;
    radio.onchange = () => this.#choose(url, name, file);
    return make("label", {}, make("img", { src: url, alt: "" }), radio);
  }

  #choose(url, name, file = null) {
    this.url = url;
    this.picture = file;
    this.chosen(url, name);
  }
}

/** Let files be dropped on an element. */
export function droppable(element, take) {
  element.addEventListener("dragover", (event) => {
    event.preventDefault();
    element.classList.add("over");
  });
  element.addEventListener("dragleave", () => element.classList.remove("over"));
  element.addEventListener("drop", (event) => {
    event.preventDefault();
    element.classList.remove("over");
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
}
