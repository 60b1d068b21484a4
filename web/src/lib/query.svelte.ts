// One question to the API and its newest answer. An error keeps the answer before it, so that a page never goes blank.

import { ApiError } from './api';

export class Query<T> {
  data = $state.raw<T>();
  error = $state.raw<ApiError>();
  loading = $state(true);
  #ask: (signal: AbortSignal) => Promise<T>;
  #running: AbortController | undefined;
  #again = false;

  constructor(ask: (signal: AbortSignal) => Promise<T>) {
    this.#ask = ask;
  }

  /** Asks again; while an answer is awaited, once more after it. */
  refresh = async (): Promise<void> => {
    if (this.#running) {
      this.#again = true;
      return;
    }
    const running = new AbortController();
    this.#running = running;
    try {
      this.data = await this.#ask(running.signal);
      this.error = undefined;
    } catch (cause) {
      if (running.signal.aborted) return;
      this.error = cause instanceof ApiError ? cause : new ApiError(0, String(cause), '');
    } finally {
      if (this.#running === running) {
        this.#running = undefined;
        this.loading = false;
        if (this.#again) {
          this.#again = false;
          void this.refresh();
        }
      }
    }
  };

  /** Forgets the question in flight and asks anew, for changed parameters. */
  restart = (): void => {
    this.stop();
    this.loading = true;
    void this.refresh();
  };

  stop = (): void => {
    this.#again = false;
    this.#running?.abort();
    this.#running = undefined;
  };
}
