/** What `npm run seed` writes. The keys are known to everybody who reads this: outside of dev they are refused. */

export interface SeededTenant {
  readonly tenant: string;
  readonly name: string;
  readonly key: string;
}

export const seededTenants: readonly SeededTenant[] = [
  { tenant: 'acme', name: 'Acme', key: 'sk_dev_acme00000001_for-development-only-not-a-secret' },
  { tenant: 'globex', name: 'Globex', key: 'sk_dev_globex000001_for-development-only-not-a-secret' },
];

/** Tools of the release that each tenant may call. What they are and take, tool-executor knows and publishes. */
export const seededTools: readonly string[] = ['echo', 'timestamp', 'calculator'];

export interface SeededPersona {
  readonly personaId: string;
  readonly systemPrompt: string;
  readonly modelProfile: string;
  readonly tools: readonly string[];
  /** As apps/conversation-worker/src/persona-settings.ts reads them; nothing is recalled or delegated without. */
  readonly memory?: Readonly<Record<string, unknown>>;
  readonly delegates?: readonly Readonly<Record<string, string>>[];
}

export const seededPersonas: readonly SeededPersona[] = [
  {
    personaId: 'assistant',
    systemPrompt:
      'You are a helpful assistant. Be brief and exact. Use the calculator for arithmetic and the timestamp tool for the time instead of guessing. Delegate what takes research to the researcher.',
    modelProfile: 'default',
    tools: seededTools,
    memory: { recall: true, limit: 5, write: ['user', 'assistant'] },
    delegates: [{ persona_id: 'researcher' }],
  },
  {
    personaId: 'researcher',
    systemPrompt:
      'You are a researcher. Work out what you are asked, with the tools you have, and answer with the result alone.',
    modelProfile: 'default',
    tools: seededTools,
  },
  {
    personaId: 'plain',
    systemPrompt: 'You are a helpful assistant without tools. Be brief and exact.',
    modelProfile: 'default',
    tools: [],
  },
];

export interface SeededProfile {
  readonly name: string;
  readonly maxOutputTokens: number;
  readonly fallback?: string;
}

/** Endpoint, model and key are left to the services' settings (MODEL_*): one variable points all of them elsewhere. */
export const seededProfiles: readonly SeededProfile[] = [
  { name: 'default', maxOutputTokens: 4096, fallback: 'fallback' },
  { name: 'fallback', maxOutputTokens: 1024 },
];
