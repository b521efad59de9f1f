// Before anything is drawn: the colours chosen here, or the system's.
{
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (localStorage.getItem("liveact-theme") ?? (system.matches ? "dark" : "light")) === "dark";
  const apply = () => {
    root.dataset.theme = dark() ? "dark" : "light";
    document.getElementById("theme")?.setAttribute("aria-pressed", String(dark()));
  };
  apply();
  system.addEventListener("change", apply);
  addEventListener("DOMContentLoaded", () => {
    apply();
    document.getElementById("theme").addEventListener("click", () => {
      localStorage.setItem("liveact-theme", dark() ? "light" : "dark");
      apply();
    });
  });
}
