// Does much work, a few pieces at a time.

/** Begins the work that it is given in order, at most `limit` pieces at a time. */
export class Pool {
  #free;
  #waiting = [];

  constructor(limit) {
    this.#free = limit;
  }

  /** @returns what `work` does */
  async run(work) {
    if (this.#free > 0) this.#free -= 1;
    else await new Promise((resolve) => this.#waiting.push(resolve));
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#free += 1;
    }
  }
}
