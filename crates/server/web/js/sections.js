// The bar at the bottom of a phone: which section is in view.

/** Marks the link of the section that is in view. */
export function startSections() {
  const links = [...document.querySelectorAll(".tabs a")];
  // Two are in view where they meet: once the one leaves, the other is told of by nothing else.
  const inView = new Set();
  const observer = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) inView.add(`#${target.id}`);
      else inView.delete(`#${target.id}`);
    }
    const current = links.find((link) => inView.has(link.hash));
    if (!current) return;
    for (const link of links) link.setAttribute("aria-current", String(link === current));
  }, { rootMargin: "-30% 0px -60% 0px" });
  for (const link of links) {
    const section = document.querySelector(link.hash);
    if (section) observer.observe(section);
  }
}
