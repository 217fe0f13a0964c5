// On a narrow screen, the rows of a wide table are shown as blocks (event.css). A table is wide if it has three columns or
// more, or long code in its first column. With three columns or more, each cell needs the heading of its column.
const LONG = 12;
// Code in a line of text that is not longer than this does not break, so that "--strict" stays on one line.
const UNBROKEN = 18;
// Code that is longer than this may break anywhere, also in the first column of a table on a wide screen.
const BROKEN = 48;

function isWide(table) {
  const rows = [...table.tBodies[0].rows];
  if (rows.some((row) => row.cells.length > 2)) return true;
  const codes = rows.flatMap((row) => [...row.cells[0].querySelectorAll("code")]);
  const onlyCode = rows.every((row) => row.cells[1]?.querySelector("code")?.textContent === row.cells[1]?.textContent.trim());
  return !onlyCode && codes.some((code) => code.textContent.length > LONG);
}

for (const code of document.querySelectorAll("article code.literal")) {
  if (code.textContent.length <= UNBROKEN) code.style.whiteSpace = "nowrap";
  if (code.textContent.length > BROKEN) code.style.overflowWrap = "anywhere";
}
for (const table of document.querySelectorAll("article table.docutils")) {
  if (!isWide(table)) continue;
  table.classList.add("wide");
  const headings = [...table.querySelectorAll("thead th")].map((cell) => cell.textContent.trim());
  for (const row of table.tBodies[0].rows) {
    if (row.cells.length < 3) continue;
    [...row.cells].forEach((cell, i) => i && headings[i] && cell.textContent.trim() && cell.setAttribute("data-heading", headings[i]));
  }
}
