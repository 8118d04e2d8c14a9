// Elements: adds data to the page, always as text and never as markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Makes an element. Of the properties `class`, `text`, `on` (listeners) and `data` are special, all others are
 * attributes; those that are null or false are left out.
 */
export function element(name, properties = {}, ...children) {
  return furnish(document.createElement(name), properties, children);
}

/** Makes an element of SVG. */
export function drawing(name, properties = {}, ...children) {
  return furnish(document.createElementNS(SVG, name), properties, children);
}

function furnish(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name === "on")
      for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const byId = (id) => document.getElementById(id);

/** Changes a text only if it differs, so that an equal text causes no layout and keeps its selection. */
export function setText(node, text) {
  const wanted = String(text);
  if (node.textContent !== wanted) node.textContent = wanted;
}

export function setAttribute(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

/** Sets a custom property: colours and lengths that come from data. */
export function setStyle(node, name, value) {
  if (node.style.getPropertyValue(name) !== value) node.style.setProperty(name, value);
}

/**
 * Keeps the children of a node in step with items: `make(item)` an element for a key that is new, `update(element,
 * item)` for every one. Elements stay the same as long as their key does, so focus and selection stay too.
 */
export function keep(parent, items, keyOf, make, update) {
  const known = parent.keyed ?? (parent.keyed = new Map());
  const wanted = new Set(items.map(keyOf));
  for (const [key, node] of known) {
    if (!wanted.has(key)) {
      node.remove();
      known.delete(key);
    }
  }
  // An element would lose the focus if it were moved.
  const still = parent.contains(document.activeElement);
  let next = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let node = known.get(key);
    if (node === undefined) {
      node = make(item);
      known.set(key, node);
      parent.insertBefore(node, next);
    } else if (node === next) {
      next = next.nextElementSibling;
    } else if (!still) {
      parent.insertBefore(node, next);
    }
    update(node, item);
  }
}
