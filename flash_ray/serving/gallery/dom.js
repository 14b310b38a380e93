// Makes and finds elements. Text from the server becomes text nodes, never markup.

/** The element with this id; fails if the page lacks it. */
export function byId(id) {
  const match = document.getElementById(id);
  if (!match) throw new Error(`the page has no element #${id}`);
  return match;
}

/**
 * A new element.
 * @param {string} name its tag
 * @param {object} properties of the element where it has them, attributes otherwise
 * @param {...(Node|string|null|false)} children strings become text; null and false are left out
 */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== false));
  return made;
}

/** Lets a number field take at most `most`. */
export function bound(field, most) {
  field.max = most;
  if (field.valueAsNumber > most) field.value = most;
}

/** Gives a select these options, and keeps what was chosen if it is still among them. */
export function fillSelect(select, values) {
  const chosen = select.value;
  select.replaceChildren(...values.map((value) => element("option", { value }, value)));
  if (values.includes(chosen)) select.value = chosen;
}
