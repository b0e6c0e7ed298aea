import { databaseSettings } from '@signalbox/config/database-settings';
import { kafkaSettings } from '@signalbox/config/kafka-settings';
import { outboxSettings } from '@signalbox/config/outbox-settings';
import { serviceSettings } from '@signalbox/config/service-settings';
import { integer, type SettingsOf } from '@signalbox/config/settings';

/** What memory-replicator reads. */
export const memoryReplicatorSettings = {
  ...serviceSettings,
  ...databaseSettings,
  ...kafkaSettings,
  ...outboxSettings,
  recallConcurrent: integer({
    env: 'MEMORY_RECALL_MAX_CONCURRENT',
    doc: 'Questions to the memories that a replica answers at once, each on a connection of its own.',
    default: 4,
    min: 1,
    max: 64,
  }),
  recallCandidates: integer({
    env: 'MEMORY_RECALL_CANDIDATES',
    doc: 'Memories that the index may lead to for one question: more find more behind common words, and take longer.',
    default: 500,
    min: 50,
    max: 20_000,
  }),
};

export type MemoryReplicatorSettings = SettingsOf<typeof memoryReplicatorSettings>;

/** What a rebuild reads: it is a process of its own beside the service. */
export const rebuildSettings = { ...serviceSettings, ...databaseSettings, ...kafkaSettings };
