"use strict";
// Shows which tokens are right at a step. Without it, the page shows the last step.
(function () {
  var samples = Array.prototype.map.call(document.querySelectorAll(".sample"), function (root) {
    var steps = root.getAttribute("data-steps").split(" ").map(Number);
    var tokens = Array.prototype.slice.call(root.querySelectorAll("[data-right]"));
    var slider = root.querySelector("input");
    var said = root.querySelector("output");
    var button = root.querySelector("button");
    var timer = null;

    function show(place) {
      var right = 0;
      tokens.forEach(function (token) {
        var isRight = token.getAttribute("data-right").charAt(place) === "1";
        token.classList.toggle("wrong", !isRight);
        right += isRight ? 1 : 0;
      });
      slider.value = String(place);
      root.setAttribute("data-shown", String(steps[place]));
      said.textContent = "step " + steps[place] + ": " + right + " of " + tokens.length + " right";
    }

    function stop() {
      window.clearInterval(timer);
      timer = null;
      button.textContent = "Play";
    }

    function showStep(step) {
      var place = 0;
      steps.forEach(function (each, index) {
        if (each <= step) { place = index; }
      });
      stop();
      show(place);
    }

    slider.addEventListener("input", function () {
      stop();
      show(Number(slider.value));
    });
    button.addEventListener("click", function () {
      if (timer !== null) { stop(); return; }
      var place = Number(slider.value) >= steps.length - 1 ? 0 : Number(slider.value);
      button.textContent = "Stop";
      show(place);
      timer = window.setInterval(function () {
        place += 1;
        if (place >= steps.length) { stop(); return; }
        show(place);
      }, 120);
    });
    root.querySelector(".controls").hidden = false;
    show(steps.length - 1);
    return showStep;
  });

  function follow() {
    var found = /^#step=(\d+)$/.exec(window.location.hash);
    if (found) {
      samples.forEach(function (showStep) { showStep(Number(found[1])); });
    }
  }
  window.addEventListener("hashchange", follow);
  follow();
})();
