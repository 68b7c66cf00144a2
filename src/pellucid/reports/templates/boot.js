"use strict";
// Runs before the first paint: scripts are on, and the theme chosen last time.
document.documentElement.classList.add("js");
try {
  const theme = localStorage.getItem("pellucid-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage may be closed to pages opened from disk; the system's theme is then used.
}
