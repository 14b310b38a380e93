// Tabs as the ARIA practices describe them: one tab stop, arrow keys, Home and End.

/** Makes a tablist work; the first tab is chosen. */
export function setUpTabs(tablist) {
  const tabs = [...tablist.querySelectorAll("[role=tab]")];

  function choose(chosen) {
    for (const tab of tabs) {
      const isChosen = tab === chosen;
      tab.setAttribute("aria-selected", String(isChosen));
      tab.tabIndex = isChosen ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = !isChosen;
    }
  }

  const moves = {
    ArrowRight: (at) => (at + 1) % tabs.length,
    ArrowLeft: (at) => (at - 1 + tabs.length) % tabs.length,
    Home: () => 0,
    End: () => tabs.length - 1,
  };
  tablist.addEventListener("keydown", (event) => {
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    const next = tabs[move(tabs.indexOf(event.target))];
    choose(next);
    next.focus();
  });
  for (const tab of tabs) tab.addEventListener("click", () => choose(tab));
  choose(tabs[0]);
}
