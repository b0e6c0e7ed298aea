import { createBreaker } from '@signalbox/breaker/breaker';
import { resolveSecrets, type SecretProvider } from '@signalbox/config/secrets';
import { fault, isFault } from '@signalbox/faults/fault';
import type { BoundedFetch } from '@signalbox/http-client/bounded-fetch';
import type { Model } from '@signalbox/model/model-port';
import {
  type ModelDefaults,
  type ModelProfile,
  openProfile,
  resolveProfile,
} from '@signalbox/model/profiles';
import { createResilientModel, type GuardedModel } from '@signalbox/model/resilient-model';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';

export interface ModelsOptions {
  readonly defaults: ModelDefaults;
  readonly http: BoundedFetch;
  readonly secrets: readonly SecretProvider[];
  /** Until the first token. */
  readonly timeoutMs: number;
  readonly tries: number;
  readonly maxDelayMs: number;
  readonly log: Logger;
  readonly metrics: Metrics;
}

const maxFallbacks = 3;
const maxKept = 200;
/** A model that nobody asked for so long is let go: a profile that was changed must not show its old breaker for ever. */
const unusedMs = 600_000;
const firstDelayMs = 100;
const breakerRules = { errorThresholdPercentage: 50, resetTimeoutMs: 5_000, volumeThreshold: 10 };

interface Kept {
  readonly guarded: Promise<GuardedModel>;
  usedAt: number;
}

/**
 * The models of stored profiles. Clients and breakers are kept by what the profile says, so that a changed profile gets
 * new ones and two tenants with the same endpoint, model and key share one breaker.
 */
export class Models {
  readonly #options: ModelsOptions;
  /** In the order of their last use. */
  readonly #kept = new Map<string, Kept>();

  constructor(options: ModelsOptions) {
    this.#options = options;
  }

  /** The model of a profile with its fallbacks behind it. Faults: NOT_FOUND, SECRET_UNRESOLVED. */
  async get(name: string, profiles: readonly ModelProfile[]): Promise<Model> {
    const chain: GuardedModel[] = [];
    const seen = new Set<string>();
    for (let next: string | undefined = name; next !== undefined && chain.length <= maxFallbacks; ) {
      const profile = profiles.find((each) => each.name === next);
      if (profile === undefined || seen.has(profile.name)) break;
      seen.add(profile.name);
      chain.push(await this.#guarded(profile));
      next = profile.fallback;
    }
    if (chain.length === 0) throw fault('NOT_FOUND', `there is no model profile ${name}`);
    const { tries, maxDelayMs, log } = this.#options;
    return createResilientModel(chain, {
      tries,
      firstDelayMs,
      maxDelayMs,
      onFailure: ({ profile, fault: error, tryNumber }) =>
        log.warning('model.try_failed', { profile, tryNumber, error }),
    });
  }

  /** What the board's `breakers` check shows: each endpoint's state; an open one degrades. */
  async probe(): Promise<{ status: 'ok' | 'degraded'; [name: string]: string }> {
    this.#letGo();
    const states: Record<string, string> = {};
    for (const each of await Promise.allSettled([...this.#kept.values()].map(({ guarded }) => guarded))) {
      if (each.status !== 'fulfilled') continue;
      const { name, state } = each.value.breaker;
      // Of several with one name the healthy ones do not hide the ill.
      if ((states[name] ?? 'closed') === 'closed') states[name] = state;
    }
    const status = Object.values(states).every((state) => state === 'closed') ? 'ok' : 'degraded';
    return { ...states, status };
  }

  close(): void {
    for (const name of [...this.#kept.keys()]) this.#drop(name);
  }

  #guarded(profile: ModelProfile): Promise<GuardedModel> {
    const name = JSON.stringify(profile);
    const kept = this.#kept.get(name) ?? { guarded: this.#open(profile), usedAt: 0 };
    kept.usedAt = performance.now();
    this.#kept.delete(name);
    this.#kept.set(name, kept);
    // A secret that could not be read now may be there the next time.
    kept.guarded.catch(() => this.#kept.delete(name));
    this.#letGo();
    return kept.guarded;
  }

  #letGo(): void {
    for (const [name, { usedAt }] of this.#kept) {
      if (this.#kept.size <= maxKept && performance.now() - usedAt < unusedMs) return;
      this.#drop(name);
    }
  }

  #drop(name: string): void {
    this.#kept
      .get(name)
      ?.guarded.then(({ breaker }) => breaker.close())
      .catch(() => undefined);
    this.#kept.delete(name);
  }

  async #open(profile: ModelProfile): Promise<GuardedModel> {
    const { defaults, http, secrets, timeoutMs, log, metrics } = this.#options;
    const resolved = resolveProfile(profile, defaults);
    const apiKey = await resolveSecrets(resolved.apiKey, secrets);
    const breaker = createBreaker({
      name: `model:${profile.name}`,
      timeoutMs,
      ...breakerRules,
      // A refused request, or one that we left, says nothing against the endpoint.
      counts: (error) => !isFault(error, 'MODEL_REFUSED') && !isFault(error, 'ABORTED'),
      metrics,
      log,
    });
    return {
      profile: profile.name,
      model: resolved.model,
      maxOutputTokens: resolved.maxOutputTokens,
      port: openProfile({ ...resolved, apiKey }, http, timeoutMs),
      breaker,
    };
  }
}
