// Theme: light, dark or as the system has it. Runs before the first paint, so that nothing flashes.

(() => {
  const root = document.documentElement;
  const ORDER = ["auto", "light", "dark"];
  const NAME = "tessera-theme";

  const kept = () => {
    try {
      return localStorage.getItem(NAME);
    } catch {
      return null; // Storage may be forbidden; then the choice lasts as long as the page.
    }
  };
  const keep = (theme) => {
    try {
      localStorage.setItem(NAME, theme);
    } catch {
      // Storage may be blocked, see above.
    }
  };

  const apply = (theme) => {
    root.dataset.theme = theme;
    document.dispatchEvent(new Event("themechange"));
  };

  const before = kept();
  apply(ORDER.includes(before) ? before : "auto");
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => apply(root.dataset.theme));

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const tell = () => {
      button.textContent = `Theme: ${root.dataset.theme}`;
    };
    tell();
    button.addEventListener("click", () => {
      const next = ORDER[(ORDER.indexOf(root.dataset.theme) + 1) % ORDER.length];
      keep(next);
      apply(next);
      tell();
    });
  });
})();
