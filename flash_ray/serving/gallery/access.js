// What the caller's role does not allow, in words.

const ROLES = ["read", "generate", "admin"]; // each may do what those before it may

/**
 * Whether a role may do what needs another; if not, `note` says so.
 * @param {HTMLElement} note for the words, hidden otherwise
 * @param {string} role the caller's
 * @param {string} needed a role
 * @param {string} work as the subject of a sentence
 */
export function permit(note, role, needed, work) {
  const isAllowed = ROLES.indexOf(role) >= ROLES.indexOf(needed);
  note.textContent = `${work} needs a token with the role ${needed}; yours has the role ${role}.`;
  note.hidden = isAllowed;
  return isAllowed;
}
