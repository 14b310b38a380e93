// What the caller's role does not allow, in words.

const ROLES = ["read", "generate", "admin"]; // each may do what those before it may

/**
 * Whether a role may do what needs another; if not, `place` says so.
 * @param {HTMLElement} place for the words, hidden otherwise
 * @param {string} role the caller's
 * @param {string} needed a role
 * @param {string} work as the subject of a sentence
 */
export function permit(place, role, needed, work) {
  const isAllowed = ROLES.indexOf(role) >= ROLES.indexOf(needed);
  place.textContent = `${work} needs a token with the role ${needed}; yours has the role ${role}.`;
  place.hidden = isAllowed;
  return isAllowed;
}
