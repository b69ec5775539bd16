// Additions to a page that is complete without them: tables that sort, a choice of the baseline, buttons that copy.
(() => {
  "use strict";
  const SECONDS = { s: 1, min: 60, h: 3600 };
  const MINUS = "\u2212";

  // Returns the number at the start of a cell, durations in seconds, or null if the cell starts with other text.
  function numberIn(text) {
    const match = text.trim().replaceAll(MINUS, "-").replaceAll(",", "").match(/^[<+]?(-?\d+(?:\.\d+)?)(?:\s*(s|min|h)\b)?/);
    return match ? Number(match[1]) * (SECONDS[match[2]] ?? 1) : null;
  }

  function sortBy(header) {
    const table = header.closest("table");
    const descending = header.ariaSort ? header.ariaSort === "ascending" : header.dataset.first === "descending";
    for (const other of table.tHead.rows[0].cells) other.ariaSort = null;
    header.ariaSort = descending ? "descending" : "ascending";
    const lines = [...table.tBodies[0].rows].map((row) => {
      const text = row.cells[header.cellIndex].textContent.trim();
      return { row, text, number: numberIn(text) };
    });
    const sign = descending ? -1 : 1;
    lines.sort((a, b) => {
      if ((a.number === null) !== (b.number === null)) return a.number === null ? 1 : -1;
      return sign * (a.number === null ? a.text.localeCompare(b.text) : a.number - b.number);
    });
    table.tBodies[0].append(...lines.map((line) => line.row));
  }

  for (const table of document.querySelectorAll(".scroll > table")) {
    if (table.tBodies[0].rows.length < 2) continue;
    for (const header of table.tHead.rows[0].cells) {
      const cells = [...table.tBodies[0].rows].map((row) => row.cells[header.cellIndex]?.textContent ?? "");
      header.dataset.first = cells.some((text) => numberIn(text) !== null) ? "descending" : "ascending";
      header.classList.add("sortable");
      header.tabIndex = 0;
      header.title = "Sort by this column";
      header.addEventListener("click", () => sortBy(header));
      header.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          sortBy(header);
        }
      });
    }
  }

  const plots = [...document.querySelectorAll("table.differences")];
  if (plots.length > 1) {
    const choice = document.createElement("select");
    for (const plot of plots) choice.add(new Option(plot.dataset.baseline));
    choice.addEventListener("change", () => plots.forEach((plot, i) => (plot.hidden = i !== choice.selectedIndex)));
    const label = document.createElement("label");
    label.append("Baseline: ", choice);
    plots[0].before(label);
  }

  for (const code of document.querySelectorAll("details.latex > pre")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        button.textContent = "Selected: copy with Ctrl+C";
      }
    });
    code.before(button);
  }

  addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll("details:not(.latex)")) folded.open = true;
  });
})();
