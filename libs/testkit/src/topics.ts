import { randomBytes } from 'node:crypto';
import { kafkaSettings } from '@signalbox/config/kafka-settings';
import { loadSettings } from '@signalbox/config/settings';
import { givenSources } from '@signalbox/config/sources';
import { deadLetterTopic, type SourceTopicName, topicList, topics } from '@signalbox/contracts/topics';
import { deleteTopics } from '@signalbox/messaging/delete-topics';
import { createTopics } from '@signalbox/messaging/topics';
import { silentLog } from '@signalbox/telemetry/silent';
import { type TestInfra, testInfra } from './infra.ts';

export interface OwnTopics {
  /** What KAFKA_TOPIC_PREFIX and KAFKA_GROUP_ID are set to, so that nothing is shared with another test. */
  readonly prefix: string;
  /** Makes these topics and their dead letters, all of the release when none is named. */
  create(...names: SourceTopicName[]): Promise<void>;
  drop(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** Topics of one test file, under a prefix of their own; on the run's broker, where no other is given. */
export function ownTopics(infra: Pick<TestInfra, 'kafka'> = testInfra()): OwnTopics {
  const prefix = `test-${randomBytes(5).toString('hex')}.`;
  const settings = loadSettings(
    'testkit',
    kafkaSettings,
    givenSources({ KAFKA_BOOTSTRAP_SERVERS: infra.kafka, KAFKA_TOPIC_PREFIX: prefix }),
  );
  const drop = async () => {
    await deleteTopics({ settings, log: silentLog });
  };
  return {
    prefix,
    async create(...names) {
      const wanted = names.flatMap((name) => [topics[name], topics[deadLetterTopic(name)]]);
      await createTopics({ settings, log: silentLog, topics: wanted.length === 0 ? topicList : wanted });
    },
    drop,
    [Symbol.asyncDispose]: drop,
  };
}
