import {
  type MemoryPageRequested,
  type MemoryRecallRequested,
  memoryRecallResultsSchema,
} from '@signalbox/contracts/memory-recall';
import { type Answerer, openAnswerer } from '@signalbox/messaging/answerer';
import type { Messaging } from '@signalbox/messaging/messaging';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';
import type { ReplicaStore } from './replica-store.ts';
import { serviceName } from './service-name.ts';

export interface AnswerQuestionsParts {
  readonly messaging: Messaging;
  readonly store: ReplicaStore;
  readonly concurrency: number;
  readonly log: Logger;
  readonly metrics: Metrics;
}

/** However long somebody would wait: a question that takes longer holds a connection that others need. */
const longestMs = 5_000;

/** Answers what is asked of the memories from the replica, until the deadline of each question. */
export function answerQuestions({
  messaging,
  store,
  concurrency,
  log,
  metrics,
}: AnswerQuestionsParts): Answerer {
  const schema = memoryRecallResultsSchema;
  return openAnswerer({
    ...{ messaging, service: serviceName, concurrency, log, metrics },
    requests: 'memory.recall.requests',
    results: 'memory.recall.results',
    refused: 'memory.refused',
    answers: {
      'memory.recall_requested': async ({ tenant, value }) => {
        const startedAt = performance.now();
        const found = await store.recall(tenant, value, leftMs(value));
        const memories = found.map(({ memory, score }) => ({ ...memory, score }));
        const tookMs = Math.round((performance.now() - startedAt) * 10) / 10;
        return { eventType: 'memory.recalled', schema, value: { memories, took_ms: tookMs } };
      },
      'memory.page_requested': async ({ tenant, value }) => {
        const { memories, nextAfter } = await store.page(tenant, value, leftMs(value));
        const next = nextAfter === undefined ? {} : { next_after: nextAfter };
        return { eventType: 'memory.page', schema, value: { memories: [...memories], ...next } };
      },
    },
  });
}

function leftMs({ deadline_at: deadline }: MemoryRecallRequested | MemoryPageRequested): number {
  return Math.min(Date.parse(deadline) - Date.now(), longestMs);
}
