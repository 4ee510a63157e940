"use strict";
(() => {
  const root = document.documentElement, themes = ["auto", "light", "dark"];
  const button = document.querySelector("#theme");
  const show = (name) => {
    if (name === "auto") delete root.dataset.theme; else root.dataset.theme = name;
    button.textContent = name;
    button.dataset.now = name;
  };
  show("auto");
  button.addEventListener("click", () => show(themes[(themes.indexOf(button.dataset.now) + 1) % themes.length]));

  const store = document.querySelector("#items"), dialog = document.querySelector("#item");
  if (store && dialog) {
    const items = JSON.parse(store.textContent);
    document.addEventListener("click", (event) => {
      const card = event.target.closest("[data-item]");
      if (!card) { if (event.target === dialog) dialog.close(); return; }
      const item = items[card.dataset.item];
      dialog.querySelector(".thumb").className = "thumb i" + card.dataset.item;
      dialog.querySelector("h3").textContent = item.title;
      dialog.querySelector(".about").textContent = item.about;
      dialog.querySelector(".text").textContent = item.text;
      dialog.showModal();
    });
  }

  for (const strip of document.querySelectorAll(".past > .strip")) strip.scrollLeft = strip.scrollWidth; // the latest is in view

  const blocks = [...document.querySelectorAll("section.block")];
  let at = -1;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || (dialog && dialog.open)) return;
    const step = { j: 1, k: -1 }[event.key];
    if (event.key === "t") button.click();
    if (!step || !blocks.length) return;
    at = Math.min(Math.max(at + step, 0), blocks.length - 1);
    blocks[at].scrollIntoView();
    blocks[at].focus({ preventScroll: true });
  });
})();
