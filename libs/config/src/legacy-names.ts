/** Names that other deployments of such services use, and what is read here instead. */
const readInstead: Readonly<Record<string, string>> = {
  MAX_POOL_SIZE: 'DATABASE_POOL_SIZE and DATABASE_MAX_OVERFLOW',
  POOL_RECYCLE: 'DATABASE_POOL_RECYCLE_MS (milliseconds)',
  ALLOWED_ORIGINS: 'CORS_ORIGINS',
  USE_JSON_LOGS: 'LOG_FORMAT (json or pretty)',
  LOG_JSON: 'LOG_FORMAT (json or pretty)',
  DEBUG: 'LOG_LEVEL (DEBUG) and ENVIRONMENT (dev)',
};
const legacyPrefix = 'CLAUDE_API_';

/** One sentence for each name that is set and not read. */
export function legacyWarnings(values: Readonly<Record<string, string | undefined>>): string[] {
  const warnings: string[] = [];
  for (const [name, value] of Object.entries(values)) {
    if (value === undefined || value === '') continue;
    const instead = name.startsWith(legacyPrefix)
      ? `MODEL_${name.slice(legacyPrefix.length) === 'KEY' ? 'API_KEY' : '*'}`
      : Object.hasOwn(readInstead, name)
        ? readInstead[name]
        : undefined;
    if (instead !== undefined) warnings.push(`${name} is not read; set ${instead} instead`);
  }
  return warnings.sort();
}
