// Where the person is: `#/view/part/part?key=value`. Plain links work, also back and forward.

class Route {
  path = $state<string[]>([]);
  params = $state.raw(new URLSearchParams());

  constructor() {
    this.#read();
    addEventListener('hashchange', () => this.#read());
  }

  get view(): string {
    return this.path[0] ?? 'fleet';
  }

  /** Changes parameters of this view without a step in the history. */
  set(values: Record<string, string | undefined>): void {
    const params = new URLSearchParams(this.params);
    for (const [key, value] of Object.entries(values)) {
      if (value) params.set(key, value);
      else params.delete(key);
    }
    const query = params.size ? `?${params}` : '';
    history.replaceState(null, '', `#/${this.path.map(encodeURIComponent).join('/')}${query}`);
    this.params = params;
  }

  #read(): void {
    const [path = '', query = ''] = location.hash.replace(/^#\/?/, '').split('?');
    this.path = path.split('/').filter(Boolean).map(decode);
    this.params = new URLSearchParams(query);
  }
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export const route = new Route();

export function link(...parts: string[]): string {
  return `#/${parts.map(encodeURIComponent).join('/')}`;
}
