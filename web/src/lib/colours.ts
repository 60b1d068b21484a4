// Colours of lines that stand side by side, told apart also by people who see colours differently.

const LIGHT = ['#0b7a57', '#2f6fb5', '#c07a00', '#7a52b3', '#b8405e', '#2b8a94', '#7d7f1f', '#8a5a3c'];
const DARK = ['#4fc08d', '#6aaef0', '#e2ac3c', '#b493ec', '#ef7d99', '#57c3cf', '#bfc14e', '#cc9a78'];

export function lineColour(index: number, dark: boolean): string {
  const colours = dark ? DARK : LIGHT;
  return colours[index % colours.length] ?? '#888888';
}

/** A custom property of the page as a colour that a canvas understands. */
export function token(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
