// How a file gets onto the page: by the button, dropped anywhere, or pasted.

import { byId } from "./dom.js";

/** Calls `chosen(file, count)` with the first of the `count` files that were given. */
export function watchForFiles(chosen) {
  const take = (files) => {
    if (files?.length) chosen(files[0], files.length);
  };
  const input = byId("file");
  input.addEventListener("change", () => {
    take([...input.files]);
    input.value = ""; // so that the same file can be chosen again
  });
  addEventListener("paste", (event) => take(event.clipboardData?.files));

  let inside = 0; // enter and leave come for every element that is crossed
  const mark = (change) => {
    inside = Math.max(0, inside + change);
    document.body.classList.toggle("dropping", inside > 0);
  };
  const bringsFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => bringsFiles(event) && mark(1));
  addEventListener("dragleave", (event) => bringsFiles(event) && mark(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault(); // else the browser would leave the page for the file
    mark(-Infinity);
    take(event.dataTransfer?.files);
  });
}
