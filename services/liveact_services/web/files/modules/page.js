// Small things that every part of the page uses.

/** The element of that id. */
export const at = (id) => document.getElementById(id);

/** An element with attributes and children. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Say what went wrong, in the service's own words and with its reason. @param {Error} error */
export function tell(error) {
  at("trouble-what").textContent = error.message;
  at("trouble-reason").textContent = error.reason ?? "";
  at("trouble").hidden = false;
}

/** What was wrong is over. */
export function hush() {
  at("trouble").hidden = true;
}
