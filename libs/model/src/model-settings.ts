import { choice, integer, secret, text, url } from '@signalbox/config/settings';

/** The model endpoint that profiles without one of their own use, and how any of them is called. */
export const modelSettings = {
  modelProvider: choice({
    env: 'MODEL_PROVIDER',
    doc: 'API of the default model endpoint: openai (any compatible chat completions endpoint) or anthropic.',
    values: ['openai', 'anthropic'],
    default: 'openai',
  }),
  modelBaseUrl: url({
    env: 'MODEL_BASE_URL',
    doc: "Default model endpoint: for openai with the version (https://api.openai.com/v1), for anthropic without. The provider's public address where none is set.",
    optional: true,
  }),
  modelName: text({
    env: 'MODEL_NAME',
    doc: 'Model of the profiles that name none.',
    default: 'simulated',
    max: 200,
  }),
  modelApiKey: secret({
    env: 'MODEL_API_KEY',
    doc: 'Key of the default model endpoint; sent to no other.',
    optional: true,
  }),
  modelTimeoutMs: integer({
    env: 'MODEL_TIMEOUT_MS',
    doc: 'Until the first token of an answer, waiting for a connection included.',
    default: 60_000,
    min: 100,
    max: 600_000,
  }),
  modelIdleTimeoutMs: integer({
    env: 'MODEL_IDLE_TIMEOUT_MS',
    doc: 'An answer in which nothing came for so long counts as cut.',
    default: 30_000,
    min: 100,
    max: 600_000,
  }),
  modelTries: integer({
    env: 'MODEL_TRIES',
    doc: 'Tries of one profile before its fallback is asked. Only what failed before its first token is tried again.',
    default: 3,
    min: 1,
    max: 10,
  }),
  modelMaxDelayMs: integer({
    env: 'MODEL_MAX_DELAY_MS',
    doc: 'Longest pause between two tries; a Retry-After beyond it goes to the fallback instead.',
    default: 5_000,
    max: 60_000,
  }),
};
