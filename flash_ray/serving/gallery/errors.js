// Shows every JavaScript error of this page to the person who uses it. A classic script, loaded
// before all others, so that it also sees modules that fail to load.
"use strict";

(() => {
  let banner = null;
  let count = 0;

  function show(message, where) {
    count += 1;
    if (!banner) {
      banner = document.createElement("div");
      banner.className = "alert bug";
      banner.id = "script-error";
      banner.setAttribute("role", "alert");
      const text = document.createElement("p");
      const reload = document.createElement("button");
      reload.type = "button";
      reload.textContent = "Reload the page";
      reload.addEventListener("click", () => location.reload());
      banner.append(text, reload);
    }
    const times = count > 1 ? ` (the last of ${count} errors)` : "";
    const source = where ? ` [${where}]` : "";
    banner.firstChild.textContent = `This page has an error: ${message}${source}${times}`;
    // #alerts is not there yet if a script fails while the page loads.
    (document.getElementById("alerts") ?? document.documentElement).prepend(banner);
  }

  // Capturing, because files that fail to load do not bubble.
  addEventListener(
    "error",
    (event) => {
      if (event instanceof ErrorEvent) {
        const file = event.filename.split("/").pop();
        show(event.message, file && `${file}:${event.lineno}`);
      } else if (event.target instanceof HTMLScriptElement) {
        show("a part of it did not load", event.target.src);
      } else if (event.target instanceof HTMLLinkElement) {
        show("a part of it did not load", event.target.href);
      }
    },
    true,
  );

  addEventListener("unhandledrejection", (event) => {
    show(event.reason?.message ?? String(event.reason), null);
  });
})();
