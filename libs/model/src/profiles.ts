import type { BoundedFetch } from '@signalbox/http-client/bounded-fetch';
import { createAnthropicModel } from './anthropic-model.ts';
import type { Model } from './model-port.ts';
import { createOpenAiModel } from './openai-model.ts';

export type ModelProvider = 'openai' | 'anthropic';

/**
 * A model profile as it is stored. What is left out comes from the service's settings (MODEL_PROVIDER, MODEL_BASE_URL,
 * MODEL_NAME, MODEL_API_KEY), so that one environment variable points a whole stack at another endpoint.
 */
export interface ModelProfile {
  readonly name: string;
  readonly provider?: ModelProvider;
  readonly model?: string;
  readonly baseUrl?: string;
  /** A key, or a reference to one: `${secret:name}`. */
  readonly apiKey?: string;
  readonly maxOutputTokens: number;
  /** The profile that answers when this one cannot. */
  readonly fallback?: string;
}

/** What profiles leave out. */
export interface ModelDefaults {
  readonly provider: ModelProvider;
  readonly model: string;
  readonly baseUrl: string;
  readonly apiKey: string;
}

/** A profile with everything that a connection needs. */
export interface ResolvedProfile {
  readonly name: string;
  readonly provider: ModelProvider;
  readonly model: string;
  readonly baseUrl: string;
  readonly apiKey: string;
  readonly maxOutputTokens: number;
}

const publicUrls: Record<ModelProvider, string> = {
  openai: 'https://api.openai.com/v1',
  anthropic: 'https://api.anthropic.com',
};

/**
 * Fills a profile from the defaults. Address and key belong together: a profile with a provider or an address of its own
 * never gets the default key sent to it.
 */
export function resolveProfile(profile: ModelProfile, defaults: ModelDefaults): ResolvedProfile {
  const provider = profile.provider ?? defaults.provider;
  const ownEndpoint = profile.baseUrl !== undefined || provider !== defaults.provider;
  const baseUrl =
    profile.baseUrl ?? (ownEndpoint || defaults.baseUrl === '' ? publicUrls[provider] : defaults.baseUrl);
  return {
    name: profile.name,
    provider,
    model: profile.model ?? defaults.model,
    baseUrl,
    apiKey: profile.apiKey ?? (ownEndpoint ? '' : defaults.apiKey),
    maxOutputTokens: profile.maxOutputTokens,
  };
}

/** The model of a profile over its provider's client. `timeoutMs`: until the first byte of an answer. */
export function openProfile(profile: ResolvedProfile, http: BoundedFetch, timeoutMs: number): Model {
  const { baseUrl, apiKey, model } = profile;
  const create = profile.provider === 'anthropic' ? createAnthropicModel : createOpenAiModel;
  return create({ baseUrl, apiKey, model, timeoutMs, http });
}
