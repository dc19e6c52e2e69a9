"use strict";

// A click on a column's title sorts the table, and the pictures below in the same order.
function sort(table, header) {
  const column = [...header.parentNode.children].indexOf(header);
  const before = header.getAttribute("aria-sort");
  const first = header.dataset.first || "ascending";
  const second = first === "ascending" ? "descending" : "ascending";
  const order = before === first ? second : first;
  for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const key = (row) => row.children[column].dataset.value ?? row.children[column].textContent;
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => {
    const [left, right] = [key(a), key(b)];
    if (left === "" || right === "") return (left === "") - (right === ""); // undefined: last
    const numbers = [Number(left), Number(right)];
    const difference = numbers.some(Number.isNaN)
      ? left.localeCompare(right, "en", { numeric: true })
      : numbers[0] - numbers[1];
    return sign * difference;
  });
  table.tBodies[0].append(...rows);
  const gallery = document.getElementById(table.dataset.gallery);
  if (!gallery) return;
  const figures = new Map([...gallery.children].map((each) => [each.dataset.image, each]));
  gallery.append(...rows.map((row) => figures.get(row.dataset.image)).filter(Boolean));
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const header of table.tHead.rows[0].cells) {
    header.querySelector("button")?.addEventListener("click", () => sort(table, header));
  }
}

// A click on a picture makes it as wide as the page, and small again.
for (const picture of document.querySelectorAll("button.picture")) {
  picture.addEventListener("click", () => {
    const large = picture.closest("figure").classList.toggle("large");
    picture.setAttribute("aria-pressed", String(large));
  });
}
