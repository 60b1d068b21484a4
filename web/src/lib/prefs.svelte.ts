// What a person chose, remembered in this browser: language and theme.

export type Lang = 'en' | 'zh';
export type Theme = 'auto' | 'light' | 'dark';

const LANG = 'evergreen.lang';
const THEME = 'evergreen.theme';

function read(key: string): string | null {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

function write(key: string, value: string): void {
  try {
    localStorage.setItem(key, value);
  } catch {
    // Private windows may refuse; the choice then lasts as long as the page.
  }
}

function firstLang(): Lang {
  const kept = read(LANG);
  if (kept === 'en' || kept === 'zh') return kept;
  return navigator.language.toLowerCase().startsWith('zh') ? 'zh' : 'en';
}

function firstTheme(): Theme {
  const kept = read(THEME);
  return kept === 'light' || kept === 'dark' ? kept : 'auto';
}

const system = matchMedia('(prefers-color-scheme: dark)');

class Preferences {
  lang = $state<Lang>(firstLang());
  theme = $state<Theme>(firstTheme());
  systemDark = $state(system.matches);
  dark = $derived(this.theme === 'dark' || (this.theme === 'auto' && this.systemDark));

  setLang(lang: Lang): void {
    this.lang = lang;
    write(LANG, lang);
    applyPreferences();
  }

  setTheme(theme: Theme): void {
    this.theme = theme;
    write(THEME, theme);
    applyPreferences();
  }
}

export const prefs = new Preferences();

system.addEventListener('change', (event) => {
  prefs.systemDark = event.matches;
  applyPreferences();
});

export function applyPreferences(): void {
  const root = document.documentElement;
  root.lang = prefs.lang === 'zh' ? 'zh-CN' : 'en';
  root.dataset.theme = prefs.dark ? 'dark' : 'light';
}
