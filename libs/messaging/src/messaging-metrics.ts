import type { TopicName } from '@signalbox/contracts/topics';
import type { Metrics } from '@signalbox/telemetry/telemetry';

export type PublishPath = 'fast' | 'adopt' | 'relay' | 'direct';
export type PublishResult = 'ok' | 'refused' | 'given_up' | 'aborted';
export type ProcessOutcome = 'ok' | 'poison' | 'away' | 'skipped';

/** What messaging counts, under the names of docs/reference/metrics.md. */
export interface MessagingMetrics {
  published(path: PublishPath, result: PublishResult): void;
  /** From the commit to the acknowledgement. */
  publishSeconds(seconds: number): void;
  processed(topic: TopicName, outcome: ProcessOutcome, seconds: number): void;
  duplicates(consumer: string, count: number): void;
  restarted(consumer: string): void;
}

export function messagingMetrics(metrics: Metrics): MessagingMetrics {
  const publishes = metrics.counter('durable_publish_total', {
    help: 'Records by the path on which they were published (fast, adopt, relay, direct) and the result.',
    labels: ['path', 'result'],
  });
  const publishSeconds = metrics.histogram('outbox_publish_seconds', {
    help: "Seconds from an outbox row's commit to the broker's acknowledgement.",
  });
  const processSeconds = metrics.histogram('consumer_process_seconds', {
    help: 'Seconds that a batch of records took from fetch to commit.',
    labels: ['topic', 'outcome'],
  });
  const duplicates = metrics.counter('inbox_duplicates_total', {
    help: 'Records that had had their effect before.',
    labels: ['consumer'],
  });
  const restarts = metrics.counter('consumer_restarts_total', {
    help: 'Consumers that were built anew after a crash or by the watchdog, or left because of their store.',
    labels: ['consumer'],
  });
  return {
    published: (path, result) => publishes.add(1, { path, result }),
    publishSeconds: (seconds) => publishSeconds.record(seconds),
    processed: (topic, outcome, seconds) => processSeconds.record(seconds, { topic, outcome }),
    duplicates: (consumer, count) => {
      if (count > 0) duplicates.add(count, { consumer });
    },
    restarted: (consumer) => restarts.add(1, { consumer }),
  };
}
