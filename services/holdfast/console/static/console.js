// What a page needs beyond forms and streams: confirmation, the keyboard, copying, and times that stay true.
(() => {
  "use strict";

  const root = document.documentElement;
  const dark = () =>
    root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.querySelector("[data-theme-toggle]")?.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    localStorage.setItem("theme", root.dataset.theme);
  });

  // Where the entry of this page is out of sight in the navigation, bring it in.
  document.querySelectorAll(".bar nav, .tabs").forEach((nav) => {
    const here = nav.querySelector("[aria-current]");
    const list = nav.querySelector("ul") ?? nav;
    if (here) list.scrollLeft = here.offsetLeft - list.offsetLeft - (list.clientWidth - here.offsetWidth) / 2;
  });

  // A form, or the button that sends it, that says data-confirm asks first.
  const dialog = document.getElementById("confirm");
  let asked = null;
  document.addEventListener("submit", (event) => {
    const form = event.target;
    const question = event.submitter?.dataset.confirm ?? form.dataset.confirm;
    if (!question || form.dataset.sure) return;
    event.preventDefault();
    asked = { form, by: event.submitter };
    document.getElementById("confirm-text").textContent = question;
    dialog.showModal();
  });
  dialog.querySelector("[data-no]").addEventListener("click", () => dialog.close());
  dialog.querySelector("[data-yes]").addEventListener("click", () => {
    dialog.close();
    const { form, by } = asked;
    if (!form.isConnected) {
      // A stream has put another in its place meanwhile; what was asked is done all the same.
      form.hidden = true;
      document.body.append(form);
    }
    form.dataset.sure = "1";
    form.requestSubmit(by?.isConnected ? by : undefined);
  });

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const label = button.textContent;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select and copy";
      getSelection().selectAllChildren(button.previousElementSibling);
    }
    setTimeout(() => (button.textContent = label), 2000);
  });

  // Keyboard in the inbox: j and k move, a and d go to the reason with the decision at hand.
  const gates = () => [...document.querySelectorAll("[data-gate]")];
  const current = () => document.activeElement?.closest("[data-gate]");
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input, textarea, select") || dialog.open) return;
    const all = gates();
    if (!all.length) return;
    const at = all.indexOf(current());
    if (event.key === "j") all[Math.min(all.length - 1, at + 1)].focus();
    else if (event.key === "k") all[Math.max(0, at - 1)].focus();
    else if ((event.key === "a" || event.key === "d") && at >= 0) {
      const gate = all[at];
      const button = gate.querySelector(event.key === "a" ? "[data-approve]" : "[data-deny]");
      const reason = gate.querySelector("[name=reason]");
      if (!button) return;
      gate.querySelectorAll("[data-chosen]").forEach((each) => delete each.dataset.chosen);
      button.dataset.chosen = "1";
      reason.focus();
    } else return;
    event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.matches("[data-gate] [name=reason]")) {
      const chosen = event.target.form.querySelector("[data-chosen]");
      event.preventDefault();
      if (chosen) event.target.form.requestSubmit(chosen);
    }
    if (event.key === "Escape" && current() && event.target.matches("input")) current().focus();
  });

  // Keyboard in a review: j and k move, a accepts, r rejects and goes to the reason.
  const samples = () => [...document.querySelectorAll("[data-sample]")];
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input:not([type=radio]), textarea, select") || dialog.open) return;
    const all = samples();
    if (!all.length) return;
    const at = all.indexOf(document.activeElement?.closest("[data-sample]"));
    if (event.key === "j") all[Math.min(all.length - 1, at + 1)].focus();
    else if (event.key === "k") all[Math.max(0, at - 1)].focus();
    else if (event.key === "a" && at >= 0) {
      all[at].querySelector("[data-accept]").checked = true;
      all[Math.min(all.length - 1, at + 1)].focus();
    } else if (event.key === "r" && at >= 0) {
      all[at].querySelector("[data-reject]").checked = true;
      all[at].querySelector(`[name^="reason-"]`).focus();
    } else return;
    event.preventDefault();
  });
  document.querySelectorAll("details[data-edit]").forEach((each) =>
    each.addEventListener("toggle", () => {
      const field = each.querySelector("textarea");
      // One that was open from the start came back as it was left, with its verdict.
      if (each.open && field.disabled) each.closest("[data-sample]").querySelector("[data-accept]").checked = true;
      field.disabled = !each.open;
    }),
  );

  // A stream never takes away what somebody is writing, nor closes what they have opened.
  const typed = (within) =>
    [...within.querySelectorAll("input:not([type=hidden]), textarea")].some(
      (field) => field.value !== field.defaultValue || field === document.activeElement,
    );
  let open = [];
  let focused = "";
  document.body.addEventListener("htmx:sseBeforeMessage", (event) => {
    const target = event.target;
    if (target.matches("[data-keep-typed]") && typed(target)) {
      event.preventDefault();
      document.querySelector("[data-stale]").hidden = false;
    }
  });
  document.body.addEventListener("htmx:sseBeforeMessage", (event) => {
    open = [...event.target.querySelectorAll("details[open][id]")].map((each) => each.id);
    focused = event.target.contains(document.activeElement) ? document.activeElement.id : "";
  });
  document.body.addEventListener("htmx:sseMessage", (event) => {
    open.forEach((id) => document.getElementById(id)?.setAttribute("open", ""));
    if (focused) document.getElementById(focused)?.focus();
    document.querySelectorAll("[data-follow]").forEach((box) => {
      if (box.dataset.away !== "1") box.scrollTop = box.scrollHeight;
    });
    tick();
  });
  document.querySelectorAll("[data-follow]").forEach((box) =>
    box.addEventListener("scroll", () => {
      box.dataset.away = box.scrollHeight - box.scrollTop - box.clientHeight > 40 ? "1" : "0";
    }),
  );

  document.body.addEventListener("htmx:sseOpen", () => mark("on"));
  document.body.addEventListener("htmx:sseError", () => mark("off"));
  document.body.addEventListener("htmx:sseClose", () => mark("over"));
  const mark = (state) => {
    document.querySelectorAll("[data-live]").forEach((each) => {
      each.dataset.live = state;
      each.textContent = { on: "live", off: "reconnecting", over: "no longer live" }[state];
    });
  };

  // What takes a while says that it is under way, and is sent once; a page that comes back can be sent anew.
  document.addEventListener("submit", (event) => {
    const button = event.target.dataset.sending && event.target.querySelector("button.primary");
    if (!button || event.defaultPrevented) return;
    button.dataset.before = button.textContent;
    button.textContent = event.target.dataset.sending;
    button.disabled = true;
  });
  addEventListener("pageshow", () => {
    document.querySelectorAll("button[data-before]").forEach((button) => {
      button.textContent = button.dataset.before;
      button.disabled = false;
    });
  });

  // A popover closes when somebody clicks elsewhere or leaves it with Escape.
  document.addEventListener("click", (event) => {
    document.querySelectorAll("details[data-popover][open]").forEach((each) => {
      if (!each.contains(event.target)) each.open = false;
    });
  });
  document.addEventListener("keydown", (event) => {
    const popover = event.key === "Escape" && document.querySelector("details[data-popover][open]");
    if (!popover) return;
    popover.open = false;
    popover.querySelector("summary").focus();
  });

  // Relative times.
  const words = (seconds) => {
    const size = Math.abs(seconds);
    const hours = Math.floor(size / 3600);
    const minutes = Math.floor((size % 3600) / 60);
    const text =
      size < 60 ? `${Math.floor(size)} s`
      : size < 3600 ? `${minutes} min`
      : size < 86400 ? `${hours} h${minutes ? ` ${minutes} min` : ""}`
      : `${Math.floor(size / 86400)} d`;
    return size < 1 ? "now" : seconds > 0 ? `${text} ago` : `in ${text}`;
  };
  const tick = () => {
    const now = Date.now();
    document.querySelectorAll("time[datetime]").forEach((each) => {
      each.textContent = words((now - Date.parse(each.dateTime)) / 1000);
    });
  };
  setInterval(tick, 5000);
})();
