"use strict";
// Shows what is known of a token that was tapped, where there is no pointer to hover with.
(function () {
  var told = document.querySelector(".told");
  var chosen = null;

  function choose(element) {
    if (chosen !== null) { chosen.classList.remove("chosen"); }
    chosen = element;
    told.hidden = element === null;
    if (element !== null) {
      element.classList.add("chosen");
      told.textContent = element.getAttribute("title");
    }
  }

  document.querySelector(".text").addEventListener("click", function (event) {
    var element = event.target;
    choose(element.hasAttribute("title") && element !== chosen ? element : null);
  });
  // A link to a chunk: page.html#chunk-7
  function follow() {
    var element = document.getElementById(window.location.hash.slice(1));
    if (element !== null && element.classList.contains("mark")) { choose(element); }
  }
  window.addEventListener("hashchange", follow);
  follow();

  document.addEventListener("keydown", function (event) {
    if (event.key === "Escape") { choose(null); }
  });
})();
