// Tabs as the ARIA practices have them: one is in the tab order, arrows go to the others.

/** @param {HTMLElement} list with role tablist. */
export function tabs(list) {
  const shown = () => [...list.querySelectorAll('[role="tab"]:not([hidden])')];
  const choose = (tab) => {
    for (const other of list.querySelectorAll('[role="tab"]')) {
      const chosen = other === tab;
      other.setAttribute("aria-selected", String(chosen));
      other.tabIndex = chosen ? 0 : -1;
      document.getElementById(other.getAttribute("aria-controls")).hidden = !chosen;
    }
  };
  list.addEventListener("click", ({ target }) => target.closest('[role="tab"]') && choose(target.closest('[role="tab"]')));
  list.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const all = shown();
    const next = all[(all.indexOf(document.activeElement) + step + all.length) % all.length];
    choose(next);
    next.focus();
  });
}
