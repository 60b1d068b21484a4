// Who is logged in here, and what they may do. The cookie is out of reach of this code; the CSRF token is not kept.

import { ApiError, send } from './api';

export interface Session {
  name: string | null;
  via: 'anonymous' | 'token' | 'initial-token' | 'oidc' | 'break-glass' | null;
  grants: { role: string; sites: string[] | null; namespaces: string[] | null }[] | null;
  permissions: string[] | null;
  csrf: string | null;
  expires_in_s: number | null;
  oidc: boolean;
  break_glass_in_use: boolean;
}

class Who {
  data = $state.raw<Session>();
  /** Somebody who may look is here; unknown until the first answer. */
  admitted = $derived(this.data === undefined ? undefined : this.data.name !== null);
  named = $derived(this.data?.csrf ? this.data.name : null);

  refresh = async (): Promise<void> => {
    try {
      const response = await fetch('/api/v1/session', { headers: { accept: 'application/json' } });
      if (response.ok) this.data = (await response.json()) as Session;
    } catch {
      // The stream says that the plane is away.
    }
  };

  may(permission: string): boolean {
    return this.data?.permissions?.includes(permission) ?? false;
  }

  async login(token: string): Promise<void> {
    await send('POST', 'session', '', { token });
    await this.refresh();
  }

  async logout(): Promise<void> {
    await send('DELETE', 'session', this.data?.csrf ?? '');
    await this.refresh();
  }

  /** A changing request of this session. */
  async act(method: 'POST' | 'DELETE', path: string, body?: unknown): Promise<void> {
    try {
      await send(method, path, this.data?.csrf ?? '', body);
    } catch (cause) {
      if (cause instanceof ApiError && (cause.status === 401 || cause.status === 403)) await this.refresh();
      throw cause;
    }
  }
}

export const who = new Who();
