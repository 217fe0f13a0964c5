// On a narrow screen, the rows of a table with three columns or more are shown as blocks (event.css). Each cell then
// needs the heading of its column.
for (const table of document.querySelectorAll("article table.docutils")) {
  const headings = [...table.querySelectorAll("thead th")].map((cell) => cell.textContent.trim());
  const columns = table.rows[0]?.cells.length ?? 0;
  if (columns < 3) continue;
  table.classList.add("wide");
  for (const row of table.tBodies[0].rows) {
    [...row.cells].forEach((cell, i) => headings[i] && i && cell.setAttribute("data-heading", headings[i]));
  }
}
