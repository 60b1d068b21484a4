// The stream of changes. It says that something changed; who shows it asks again. Without a stream the page asks
// every few seconds, and a hidden tab asks nothing.

type Topic = 'fleet' | 'incident';
type State = 'connecting' | 'live' | 'down';

const POLL_MS = 5000;
const RETRY_MS = 3000;

class LiveStream {
  state = $state<State>('connecting');
  lastHeard = $state(Date.now());
  now = $state(Date.now());
  #listeners = new Map<() => void, Topic>();
  #source: EventSource | undefined;
  #retry: ReturnType<typeof setTimeout> | undefined;

  start(): () => void {
    this.#open();
    const clock = setInterval(() => (this.now = Date.now()), 1000);
    const poll = setInterval(() => {
      if (this.state !== 'live') this.#tell();
    }, POLL_MS);
    const visible = () => {
      if (!document.hidden) this.#tell();
    };
    document.addEventListener('visibilitychange', visible);
    return () => {
      clearInterval(clock);
      clearInterval(poll);
      clearTimeout(this.#retry);
      document.removeEventListener('visibilitychange', visible);
      this.#source?.close();
      this.state = 'connecting';
    };
  }

  /** Calls `listener` when the topic changed; answers how to stop. */
  on(topic: Topic, listener: () => void): () => void {
    this.#listeners.set(listener, topic);
    return () => this.#listeners.delete(listener);
  }

  #open(): void {
    const source = new EventSource('/api/v1/stream');
    this.#source = source;
    source.onopen = () => {
      const was = this.state;
      this.state = 'live';
      if (was === 'down') this.#tell();
    };
    source.onerror = () => {
      this.state = 'down';
      // A refused stream is closed for good by the browser; a lost one it opens again itself.
      if (source.readyState === EventSource.CLOSED) this.#retry = setTimeout(() => this.#open(), RETRY_MS);
    };
    source.addEventListener('fleet', () => this.#tell('fleet'));
    source.addEventListener('incident', () => this.#tell('incident'));
    source.addEventListener('reset', () => this.#tell());
  }

  #tell(topic?: Topic): void {
    if (document.hidden) return;
    if (this.state === 'live') this.lastHeard = Date.now();
    for (const [listener, wants] of this.#listeners) if (!topic || wants === topic) listener();
  }
}

export const live = new LiveStream();
