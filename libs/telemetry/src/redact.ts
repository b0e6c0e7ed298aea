/**
 * Secrets have shapes; whatever has one is written as `***`, wherever in a text it stands. The name of a thing is kept
 * (`password=***`), so that a reader still sees what was there.
 */
const shapes: readonly (readonly [pattern: RegExp, replacement: string])[] = [
  // API keys: ours (sk_dev_…), OpenAI's and Anthropic's (sk-…).
  [/\bsk[-_][A-Za-z0-9][A-Za-z0-9_-]{7,}/g, 'sk_***'],
  [/\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{6,}/gi, '$1 ***'],
  // JWTs, also bare ones.
  [/\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*/g, '***'],
  // scheme://user:password@host
  [/(\b[a-z][a-z0-9+.-]*:\/\/[^:/@\s"']*):[^@\s"']*@/gi, '$1:***@'],
  // key=value and "key": "value" of names that mean a secret.
  [
    /(\b[a-z0-9_-]*(?:password|passwd|secret|api[_-]?key|access[_-]?key|private[_-]?key|access[_-]?token|refresh[_-]?token|auth[_-]?token|authorization|credential)s?["']?\s*[=:]\s*)(?!\$\{|\*\*\*|(?:Bearer|Basic) \*\*\*)("[^"]*"|'[^']*'|[^\s,;&"'}\]]+)/gi,
    '$1***',
  ],
  [/\b(AKIA|ASIA)[A-Z0-9]{12,}/g, '$1***'],
  [/-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(-----END [A-Z ]*PRIVATE KEY-----|$)/g, '*** private key ***'],
];

/** A field of such a name is never written, whatever its value looks like. */
const secretName =
  /^(password|passwd|secret|token|api_?key|x_api_key|authorization|cookie|set_cookie|credentials?|private_key|client_secret|(access|refresh|id|auth)_token)$/;

export function isSecretName(snakeName: string): boolean {
  return secretName.test(snakeName.toLowerCase().replaceAll('-', '_'));
}

/** Every shape above has one of these in it: most texts are let through by one look. */
const suspicious = /sk[-_]|bearer|basic|eyJ|:\/\/|passw|secret|key|token|authoriz|credential|AKIA|ASIA/i;

/** `text` without anything that has the shape of a secret. */
export function redact(text: string): string {
  if (!suspicious.test(text)) return text;
  let clean = text;
  for (const [pattern, replacement] of shapes) clean = clean.replace(pattern, replacement);
  return clean;
}
