// The bar at the bottom of a phone: which section is in view.

/** Marks the link of the section that is in view. */
export function startSections() {
  const links = [...document.querySelectorAll(".tabs a")];
  const observer = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      for (const link of links) link.setAttribute("aria-current", String(link.hash === `#${target.id}`));
    }
  }, { rootMargin: "-30% 0px -60% 0px" });
  for (const link of links) {
    const section = document.querySelector(link.hash);
    if (section) observer.observe(section);
  }
}
